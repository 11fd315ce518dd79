"""What pydantic makes of the sections: the validator of a file, and its JSON Schema.

It takes long to load and to build, so only what reads a file imports this.
"""

import json
from datetime import timedelta
from functools import cache
from typing import Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from tocsin.config import intervals, model, values
from tocsin.kit.clock import format_duration

for _module in (intervals, model):  # the names in their annotations
    _kinds = vars(values) | {kind.__name__: kind for kind in (AfterValidator, BeforeValidator)} | {"Field": Field}
    vars(_module).update({name: kind for name, kind in _kinds.items() if name not in vars(_module)})

CONFIG_ADAPTER: Final = TypeAdapter(model.Config)
INCLUDED_ADAPTER: Final = TypeAdapter(model.IncludedFile)


class _JsonSchema(GenerateJsonSchema):
    def encode_default(self, dft: object) -> Any:
        if isinstance(dft, timedelta):
            return format_duration(dft)
        return sorted(dft) if isinstance(dft, frozenset) else super().encode_default(dft)

    def get_default_value(self, schema: core_schema.WithDefaultSchema) -> Any:
        return {} if schema.get("default_factory") is dict else super().get_default_value(schema)

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> dict[str, Any]:
        return {key: value for key, value in super().dataclass_schema(schema).items() if key != "description"}


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors and for the names of known keys."""
    return _schema_of(CONFIG_ADAPTER, "Tocsin configuration")


def included_json_schema() -> dict[str, Any]:
    """That of a file that ``include`` names."""
    return _schema_of(INCLUDED_ADAPTER, "Part of a Tocsin configuration")


@cache
def _schema_of(adapter: TypeAdapter[Any], title: str) -> dict[str, Any]:
    schema = adapter.json_schema(schema_generator=_JsonSchema)
    return schema | {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title}


def json_schema_text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2) + "\n"
