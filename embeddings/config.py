"""Method configs: frozen, typed, checked, and written down in JSON."""

from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from compactrec.words import problems

__all__ = ["MethodConfig", "first_error"]


class MethodConfig(BaseModel):
    """Base of every method's config. Subclasses set ``method`` and document each field once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: ClassVar[str]
    """The registry name."""
    version: ClassVar[int] = 1
    """Raised when a field changes its meaning, so that old plans are refused, not misread."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form: ``method``, ``version`` and the fields that differ from their defaults."""
        fields = self.model_dump(mode="json", exclude_defaults=True)
        return {"method": self.method, "version": self.version, **fields}

    @classmethod
    def from_fields(cls, fields: dict[str, Any], *, version: int) -> Self:
        """The config of ``fields``; errors name the method, the field and what is allowed."""
        if version != cls.version:
            raise ValueError(
                f"{cls.method}: config version {version} is not known here (this is version "
                f"{cls.version}); use the release that wrote it"
            )
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise ValueError(f"{cls.method}: {first_error(error, cls)}") from None


def first_error(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """The first problem of a pydantic error, in one line; with ``model``, the nearest names."""
    field, text = next(problems(error, model))
    return f"{field}: {text}" if field else text
