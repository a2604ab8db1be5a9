"""What all parts of the configuration are made of."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _distinct(values: list) -> list:
    repeated = sorted({str(value) for value in values if values.count(value) > 1})
    if repeated:
        raise ValueError(f"{', '.join(repeated)} stands there more than once: name each value once")
    return values


NonEmpty = Annotated[str, Field(min_length=1)]
Positive = Annotated[int, Field(ge=1)]
Ratio = Annotated[float, Field(gt=0, le=1)]


def list_of(item: Any, at_least: int = 1) -> Any:
    """A list without repetitions."""
    unique = Field(min_length=at_least, json_schema_extra={"uniqueItems": True})
    return Annotated[list[item], AfterValidator(_distinct), unique]


class Section(BaseModel):
    """What every part of the configuration has in common: no unknown key, no silent conversion, no later change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)
