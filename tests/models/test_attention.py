"""The interacting layer of AutoInt: what its attention must be, whatever the flavor."""

import pytest
import torch

from compactrec.models.attention import Flavor, Interacting

FLAVORS: tuple[Flavor, ...] = ("paper", "official_tf", "fuxictr")


def layer(flavor: Flavor, width: int = 6) -> Interacting:
    torch.manual_seed(3)
    made = Interacting(width, 2, 3, flavor)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0.1, 0.5)
    return made


@pytest.mark.parametrize("flavor", FLAVORS)
def test_rows_sum_to_one_and_fields_may_change_places(flavor: Flavor) -> None:
    fields = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(1))
    made, order = layer(flavor), torch.tensor([3, 0, 4, 1, 2])
    attention = made.attention(fields)
    assert attention.shape == (4, 2, 5, 5)
    torch.testing.assert_close(attention.sum(dim=3), torch.ones(4, 2, 5))
    torch.testing.assert_close(made(fields[:, order]), made(fields)[:, order])


@pytest.mark.parametrize("flavor", FLAVORS)
def test_no_query_looks_everywhere_alike_and_one_field_at_itself(flavor: Flavor) -> None:
    made = layer(flavor)
    with torch.no_grad():
        for parameter in made.query.parameters():
            parameter.zero_()
    fields = torch.randn(2, 4, 6)
    torch.testing.assert_close(made.attention(fields), torch.full((2, 2, 4, 4), 0.25))
    assert torch.equal(made.attention(fields[:, :1]), torch.ones(2, 2, 1, 1))


@pytest.mark.parametrize("flavor", FLAVORS)
def test_what_it_gives_is_made_with_its_attention(flavor: Flavor) -> None:
    made = layer(flavor)
    fields = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(2))
    values = made.activation(made.value(fields)).unflatten(2, (2, 3))
    found = torch.einsum("bhmk,bkhd->bmhd", made.attention(fields), values).flatten(2)
    expected = made.norm((found + made.activation(made.residual(fields))).relu())
    torch.testing.assert_close(made(fields), expected)


def test_a_vector_of_zeros_adds_nothing_in_the_paper() -> None:
    made = layer("paper")
    assert not made(torch.zeros(1, 3, 6)).any()


def test_attention_weights_are_dropped_in_training_alone() -> None:
    """As by hand: what is left of each weight is scaled up; the residual is whole."""
    torch.manual_seed(0)
    made = Interacting(6, 2, 3, "fuxictr", dropout=0.5)
    fields = torch.randn(40, 5, 6)
    whole = made.attention(fields)
    values = made.value(fields).view(40, 5, 2, 3).transpose(1, 2)
    torch.manual_seed(1)
    left = torch.nn.functional.dropout(whole.transpose(0, 1), 0.5).transpose(0, 1)
    expected = (left @ values).transpose(1, 2).flatten(2) + fields
    torch.manual_seed(1)
    torch.testing.assert_close(made(fields), expected.relu())
    assert 0.4 < float((left == 0).float().mean()) < 0.6
    expected = (whole @ values).transpose(1, 2).flatten(2) + fields
    torch.testing.assert_close(made.eval()(fields), expected.relu())


def test_flavors_differ_in_their_weights() -> None:
    sizes = {f: sum(p.numel() for p in layer(f).parameters()) for f in FLAVORS}
    assert sizes == {"paper": 4 * 36, "official_tf": 4 * 36 + 4 * 6 + 12, "fuxictr": 3 * 36}
    widens = layer("fuxictr", width=5)
    assert sum(p.numel() for p in widens.parameters()) == 4 * 30
