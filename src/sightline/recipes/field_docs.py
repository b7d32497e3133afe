"""The docstrings under the fields of a dataclass, which are the documentation of the keys of a recipe."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap


def field_docs(kind: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, those it inherits included; a field without one is left out."""
    docs: dict[str, str] = {}
    for base in reversed([one for one in kind.__mro__ if dataclasses.is_dataclass(one)]):
        docs |= _own_docs(base)
    return docs


def _own_docs(kind: type) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    docs = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str):
            docs[field.target.id] = " ".join(text.value.value.split())
    return docs
