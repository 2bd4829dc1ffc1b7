"""What every model of the stack file has in common: frozen, strict, documented by its attributes."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
"""A name of something: lower-case letters, digits and hyphens, a letter first, 40 at most."""

FunctionPath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")]
"""A function in a module beside the stack file: `module:function`."""


class Section(BaseModel):
    """A frozen part of the stack file; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
