"""What lookups ask of a batch, checked before torchrec's operators read memory by it."""

from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

__all__ = ["check_bags"]


def check_bags(features: KeyedJaggedTensor, *, signs: bool) -> None:
    """Raise ``ValueError`` unless bags of equally many examples per key share out all ids.

    ``signs`` looks for negative lengths too, which takes a pass over the lengths.
    """
    if features.variable_stride_per_key():
        raise ValueError(
            f"the keys of the batch differ in their number of examples: "
            f"{features.stride_per_key()}; give every key the same, with empty bags where it has "
            f"no ids"
        )
    lengths, num_ids = features.lengths(), features.values().numel()
    num_bags = len(features.keys()) * features.stride()
    if lengths.numel() != num_bags:
        raise ValueError(
            f"the batch has {lengths.numel()} lengths for {len(features.keys())} keys and "
            f"{features.stride()} examples; give one for every key and example, {num_bags}"
        )
    if signs and num_bags and int(lengths.min()) < 0:
        raise ValueError(f"a bag has length {int(lengths.min())}; an empty bag has length 0")
    total = sum(features.length_per_key())
    if total != num_ids:
        raise ValueError(
            f"the lengths of the batch add up to {total}, but it has {num_ids} ids; give the "
            f"lengths of these ids, key by key"
        )
