"""Formulas of the pages as MathML, which browsers draw by themselves: no script, no font, no request.

Reads the part of LaTeX that the pages use; anything else is an error that names the formula.
"""

from __future__ import annotations

import re
from html import escape

_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|[0-9]|\s+|.", re.DOTALL)
_GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "varepsilon": "ε", "eta": "η", "lambda": "λ", "mu": "μ",
    "pi": "π", "rho": "ρ", "sigma": "σ", "tau": "τ", "Delta": "Δ",
}  # fmt: skip
_OPERATORS = {
    "cdot": "⋅", "ge": "≥", "le": "≤", "in": "∈", "neq": "≠", "pm": "±", "dots": "…", "succ": "≻", "to": "→", "#": "#",
}  # fmt: skip
_LARGE = {"sum": "∑", "prod": "∏"}
_FUNCTIONS = {"log", "exp", "min", "max"}
_LIMITS = {"min", "max"}
_FENCES = {"{": "{", "}": "}", "|": "‖"}
_SPACES = {" ": 0.25, ",": 0.17, "quad": 1.0, "qquad": 2.0}
_ACCENTS = {"bar": "¯", "tilde": "~", "overline": "¯"}
_TEXTS = {"text": "mtext", "mathrm": "mi", "texttt": "mtext"}
_ESCAPES = {"_": "_", "%": "%", "$": "$", "&": "&"}
_PLAIN = set("+=<>/,:;!*.")
_BRACKETS = set("()[]|")
_OPENING = {"(", "[", "{", ",", ";", "=", "<", ">", "+", "&", r"\\", r"\ "}
"""Behind these a minus is a sign."""


def to_mathml(formula: str, *, block: bool = False) -> str:
    """One formula, without its dollar signs.

    >>> to_mathml("x_1")
    '<math display="inline" alttext="x_1"><msub><mi>x</mi><mn>1</mn></msub></math>'

    Raises:
        ValueError: it holds what is not read here.
    """
    reader = _Reader(formula)
    inner = reader.row(())
    if reader.next is not None:
        raise ValueError(f"formula {formula!r}: {reader.next!r} closes nothing")
    display = "block" if block else "inline"
    return f'<math display="{display}" alttext="{escape(" ".join(formula.split()))}">{inner}</math>'


class _Reader:
    def __init__(self, formula: str) -> None:
        self.formula = formula
        self.tokens = _TOKEN.findall(formula)
        self.at = 0

    @property
    def next(self) -> str | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def take(self) -> str:
        token = self.next
        if token is None:
            raise ValueError(f"formula {self.formula!r} ends too early")
        self.at += 1
        return token

    def skip_spaces(self) -> None:
        while self.next is not None and self.next.isspace():
            self.at += 1

    def row(self, ends: tuple[str, ...]) -> str:
        """All up to one of ``ends``, which is left."""
        parts: list[str] = []
        self.skip_spaces()
        while self.next is not None and self.next != "}" and self.next not in ends:
            parts.append(self.scripted())
            self.skip_spaces()
        return "".join(parts)

    def scripted(self) -> str:
        """One thing with its index, exponent and primes."""
        name = (self.next or "").lstrip("\\")
        under = name in _LARGE or name in _LIMITS
        base, low, high = self.atom(), "", ""
        while self.next == "'":
            self.take()
            base = f'<mrow>{base}<mo lspace="0" rspace="0">′</mo></mrow>'
        while self.next in ("_", "^"):
            low, high = (self.argument(), high) if self.take() == "_" else (low, self.argument())
        if not (low or high):
            return base
        kind = ("munder", "mover", "munderover") if under else ("msub", "msup", "msubsup")
        tag = kind[2] if low and high else kind[0] if low else kind[1]
        return f"<{tag}>{base}{low}{high}</{tag}>"

    def argument(self) -> str:
        """A group in braces, or the one thing that follows, as a single element."""
        self.skip_spaces()
        if self.next != "{":
            return self.atom(single=True)
        self.take()
        inner = self.row(())
        self.close("}")
        return f"<mrow>{inner}</mrow>"

    def close(self, token: str) -> None:
        if self.next != token:
            raise ValueError(f"formula {self.formula!r}: found {self.next!r}, expected {token!r}")
        self.take()

    def atom(self, *, single: bool = False) -> str:
        """What scripts are put to. ``single``: of a number its first digit alone, as TeX reads an argument."""
        if self.next == "{":
            return self.argument()
        token = self.take()
        if token.startswith("\\"):
            return self.command(token[1:])
        if token.isdigit():
            return self.number(token, single)
        if token.isalpha():
            return f"<mi>{token}</mi>"
        if token == "-":
            return '<mo form="prefix" rspace="0">−</mo>' if self.opens(self.at - 1) else "<mo>−</mo>"
        if token in _BRACKETS:
            return f'<mo stretchy="false">{token}</mo>'
        if token in _PLAIN:
            return f"<mo>{escape(token)}</mo>"
        raise ValueError(f"formula {self.formula!r}: {token!r} is not read here")

    def opens(self, place: int) -> bool:
        """Whether what stands there has nothing on its left that it could be between."""
        before = next((token for token in reversed(self.tokens[:place]) if not token.isspace()), "(")
        return before in _OPENING

    def number(self, digit: str, single: bool) -> str:
        while not single and self.next is not None and (self.next.isdigit() or self.decimal_point()):
            digit += self.take()
        return f"<mn>{digit}</mn>"

    def decimal_point(self) -> bool:
        following = self.tokens[self.at + 1 : self.at + 2]
        return self.next == "." and bool(following) and following[0].isdigit()

    def command(self, name: str) -> str:
        if name in _GREEK:
            upright = ' mathvariant="normal"' if name[0].isupper() else ""
            return f"<mi{upright}>{_GREEK[name]}</mi>"
        if name in _OPERATORS:
            return f"<mo>{_OPERATORS[name]}</mo>"
        if name in _LARGE:
            return f"<mo>{_LARGE[name]}</mo>"
        if name in _FUNCTIONS:
            return self.function(name)
        if name in _SPACES:
            return f'<mspace width="{_SPACES[name]}em"></mspace>'
        if name in _TEXTS:
            return self.text(name)
        if name in _ACCENTS:
            return f'<mover accent="true">{self.argument()}<mo stretchy="false">{_ACCENTS[name]}</mo></mover>'
        if name in _FENCES:
            return f'<mo stretchy="false">{_FENCES[name]}</mo>'
        if name in _ESCAPES:
            return f"<mi>{escape(_ESCAPES[name])}</mi>"
        return self.structure(name)

    def structure(self, name: str) -> str:
        if name in ("frac", "tfrac", "dfrac"):
            style = {"tfrac": "false", "dfrac": "true"}.get(name)
            inner = f"<mfrac>{self.argument()}{self.argument()}</mfrac>"
            return f'<mstyle displaystyle="{style}">{inner}</mstyle>' if style else inner
        if name == "sqrt":
            return f"<msqrt>{self.argument()}</msqrt>"
        if name in ("big", "Big"):
            size = {"big": 1.2, "Big": 1.8}[name]
            return f'<mo stretchy="true" minsize="{size}em" maxsize="{size}em">{self.fence()}</mo>'
        if name == "left":
            return self.fenced()
        if name == "begin":
            return self.cases()
        if name == "mid":
            return '<mo stretchy="false" lspace="0.28em" rspace="0.28em">|</mo>'
        if name == "textstyle":
            return ""
        raise ValueError(f"formula {self.formula!r}: \\{name} is not read here")

    def function(self, name: str) -> str:
        """Upright, and set off from what it is of unless that is in brackets or a script follows."""
        ahead = next((token for token in self.tokens[self.at :] if not token.isspace()), ")")
        space = "0" if ahead in ("(", "[", "|", "_", "^", "{", r"\big", r"\Big") else "0.17em"
        return f'<mo lspace="0.17em" rspace="{space}" movablelimits="true">{name}</mo>'

    def text(self, name: str) -> str:
        self.skip_spaces()
        self.close("{")
        found = ""
        while self.next != "}":
            token = self.take()
            found += token[1:] if len(token) == 2 and token[0] == "\\" else token
        self.take()
        tag = _TEXTS[name]
        inner = escape(re.sub(r"^ | $", "\N{NO-BREAK SPACE}", found))  # MathML drops blanks at both ends
        style = ' class="mono"' if name == "texttt" else ' mathvariant="normal"' if tag == "mi" else ""
        return f"<{tag}{style}>{inner}</{tag}>"

    def fence(self) -> str:
        self.skip_spaces()
        token = self.take()
        if token in _BRACKETS:
            return token
        if token.lstrip("\\") in _FENCES and token.startswith("\\"):
            return _FENCES[token[1:]]
        if token == ".":
            return ""
        raise ValueError(f"formula {self.formula!r}: {token!r} is no bracket")

    def fenced(self) -> str:
        opening = self.fence()
        inner = self.row((r"\right",))
        self.close(r"\right")
        closing = self.fence()
        left, right = (f'<mo stretchy="true">{one}</mo>' if one else "" for one in (opening, closing))
        return f"<mrow>{left}{inner}{right}</mrow>"

    def cases(self) -> str:
        if "".join(self.take() for _ in "{cases}") != "{cases}":
            raise ValueError(f"formula {self.formula!r}: only \\begin{{cases}} is read here")
        rows, cells = [], []
        while True:
            cells.append(f"<mtd>{self.row(('&', chr(92) * 2, chr(92) + 'end'))}</mtd>")
            if (token := self.take()) == "&":
                continue
            rows.append(f"<mtr>{''.join(cells)}</mtr>")
            cells = []
            if token == r"\end":
                break
        for _ in "{cases}":
            self.take()
        return f'<mrow><mo stretchy="true">{{</mo><mtable columnalign="left">{"".join(rows)}</mtable></mrow>'
