r"""Reads the mathematics of a final answer, LaTeX or plain, into a tree; nothing is computed while reading.

A recursive descent over what answers are made of: numbers, fractions, roots, powers, functions, variables, \pm.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

MAX_LENGTH = 400
"""Characters of an answer that is read."""
MAX_DEPTH = 40
"""Nested groups, roots, powers and signs."""


class Unreadable(ValueError):
    """The text is not an expression that the reader knows."""


class Node(NamedTuple):
    """An operation on `args`; a "number" has a value, a "symbol" and a "function" have a name."""

    op: str
    args: tuple[Node, ...] = ()
    name: str = ""
    value: Fraction = Fraction(0)


class Token(NamedTuple):
    """`kind` is number, symbol, command, text, or the sign itself."""

    kind: str
    text: str
    spaced: bool = False
    """Whether white space stands before it."""


def names(text: str) -> frozenset[str]:
    """The words of `text`."""
    return frozenset(text.split())


FUNCTIONS = names("sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp")
_PLAIN_WORDS = FUNCTIONS | {"sqrt", "pi", "infty", "infinity", "theta", "alpha", "beta", "phi"}
"""Words that mean the command of their name when they are written without a backslash."""
_GREEK = names(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau "
    "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell hbar emptyset"
)
_DECORATIONS = names("vec hat bar overline overrightarrow mathbf mathbb mathcal boldsymbol mathit underline")
_PREFIXES = names("angle triangle")
_TIMES = frozenset(("times", "cdot", "ast"))
_OPENING = {"(": ")", "[": "]", "{": "}", "lbrace": "rbrace", "langle": "rangle"}
_CLOSING = frozenset(_OPENING.values())

_TOKEN = re.compile(
    r"""(?P<number>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]*)?|\.[0-9]+)
    |\\(?:text|mbox|textbf|textit|textrm|mathrm|operatorname|mathsf|texttt)\ *\{(?P<text>[^{}]*)\}
    |\\(?P<command>[A-Za-z]+|[{}%|])
    |(?P<word>[A-Za-z]+)
    |(?P<sign>[-+*/^_!'()\[\]{}|=<>,;:%&])""",
    re.VERBOSE,
)


def tokenize(text: str) -> list[Token]:
    """The tokens of a cleaned answer. Unreadable names the first character that has no place in one."""
    tokens: list[Token] = []
    at, spaced = 0, False
    while at < len(text):
        if text[at].isspace():
            at, spaced = at + 1, True
            continue
        found = _TOKEN.match(text, at)
        if found is None:
            raise Unreadable(f"{text[at]!r} has no place in an answer")
        kind, value = str(found.lastgroup), str(found[str(found.lastgroup)])
        if kind == "word":
            tokens += _word(value, spaced)
        elif kind == "text" and value.strip() in _PLAIN_WORDS:
            tokens.append(Token("command", value.strip(), spaced))
        elif kind == "command" and value in ("{", "}"):
            tokens.append(Token("command", "lbrace" if value == "{" else "rbrace", spaced))
        else:
            tokens.append(Token(value if kind == "sign" else kind, value, spaced))
        at, spaced = found.end(), False
    return tokens


def _word(word: str, spaced: bool) -> list[Token]:
    """A function or constant without its backslash, else a product of letters."""
    if word in _PLAIN_WORDS:
        return [Token("command", "infty" if word == "infinity" else word, spaced)]
    return [Token("symbol", letter, spaced and not index) for index, letter in enumerate(word)]


def split_top(tokens: list[Token], kinds: frozenset[str]) -> list[list[Token]]:
    """`tokens` split at those signs and commands of `kinds` that no bracket encloses."""
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        mark = token.text if token.kind in ("command", token.text) else ""
        depth += (mark in _OPENING) - (mark in _CLOSING)
        if depth == 0 and mark in kinds and mark:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def read_expression(tokens: list[Token]) -> Node:
    """The one expression that all of `tokens` make; Unreadable if they do not."""
    reader = _Reader(tokens)
    node = reader.sum()
    if reader.at < len(tokens):
        raise Unreadable(f"{tokens[reader.at].text!r} is out of place")
    return node


class _Reader:
    def __init__(self, tokens: list[Token]) -> None:
        self.tokens, self.at, self.depth = tokens, 0, 0

    def peek(self, *texts: str) -> bool:
        """Whether the next token is one of these signs or commands."""
        if self.at >= len(self.tokens):
            return False
        token = self.tokens[self.at]
        return token.text in texts and token.kind in ("command", token.text)

    def kind(self, offset: int = 0) -> str:
        return self.tokens[self.at + offset].kind if self.at + offset < len(self.tokens) else ""

    def take(self) -> Token:
        if self.at >= len(self.tokens):
            raise Unreadable("the answer breaks off")
        self.at += 1
        return self.tokens[self.at - 1]

    def expect(self, text: str) -> None:
        if not self.peek(text):
            raise Unreadable(f"{text!r} is missing")
        self.at += 1

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nested too deep")
        node = self.product()
        while self.peek("+", "-", "pm", "mp"):
            sign = self.take().text
            node = Node(sign, (node, self.product()))
        self.depth -= 1
        return node

    def product(self) -> Node:
        if self.peek("+", "-", "pm", "mp"):
            return self.negated(self.product)  # of all factors: -1 1/2 is -(1 1/2)
        node = self.signed()
        while True:
            if self.peek("*", *_TIMES):
                self.take()
                node = Node("*", (node, self.signed()))
            elif self.peek("/", "div"):
                self.take()
                node = Node("/", (node, self.signed()))
            elif self.begins_factor():
                node = self.juxtaposed(node)
            else:
                return node

    def juxtaposed(self, node: Node) -> Node:
        """A mixed number such as 1 1/2, else an implicit product."""
        if self.kind() == "number":
            whole, rest = node, self.tokens[self.at : self.at + 3]
            fraction = [token.kind for token in rest] == ["number", "/", "number"] and rest[0].spaced
            if fraction and is_natural(whole):
                over, under = self.number(), (self.take(), self.number())[1]
                return Node("mixed", (whole, Node("/", (over, under))))
            if not (node.op == "number" or node.op == "*"):
                return Node("*", (node, self.power()))
            raise Unreadable("two numbers side by side")
        factor = self.power()
        parts = factor.args if factor.op == "/" else ()
        if is_natural(node) and parts and all(map(is_natural, parts)) and parts[0].value < parts[1].value:
            return Node("mixed", (node, factor))
        return Node("*", (node, factor))

    def begins_factor(self) -> bool:
        if self.kind() in ("number", "symbol", "("):
            return True
        if self.kind() in ("[", "{"):
            return True
        stops = {"pm", "mp", "div", "rbrace", "rangle", "|", *_TIMES}
        return self.kind() == "command" and self.tokens[self.at].text not in stops

    def signed(self) -> Node:
        return self.negated(self.signed) if self.peek("+", "-", "pm", "mp") else self.power()

    def negated(self, read: Callable[[], Node]) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nested too deep")
        sign, node = self.take().text, read()
        self.depth -= 1
        return node if sign == "+" else Node("neg", (node,)) if sign == "-" else Node(sign, (Node("number"), node))

    def power(self) -> Node:
        node = self.atom()
        while self.peek("^", "!", "'"):
            sign = self.take().text
            if sign == "^":
                node = Node("^", (node, self.exponent()))
            elif sign == "!":
                node = Node("!", (node,))
            elif node.op == "symbol":
                node = Node("symbol", name=node.name + "'")
            else:
                raise Unreadable("a prime without a name")
        return node

    def exponent(self) -> Node:
        """A group, or one factor with its sign: 2^10 and 2^-1 are read as they are meant."""
        return self.group() if self.peek("{") else self.signed() if self.peek("-", "+") else self.atom()

    def atom(self) -> Node:
        if self.peek("("):
            return self.enclosed("(", ")")
        if self.peek("["):
            return self.enclosed("[", "]")
        if self.peek("{"):
            return self.group()
        if self.peek("|"):
            node = self.enclosed("|", "|")
            return Node("abs", (node,))
        token = self.take()
        if token.kind == "number":
            self.at -= 1
            return self.number()
        if token.kind == "symbol":
            return self.subscripted(token.text)
        if token.kind == "command":
            return self.command(token.text)
        raise Unreadable(f"{token.text!r} is out of place")

    def enclosed(self, left: str, right: str) -> Node:
        self.expect(left)
        node = self.sum()
        self.expect(right)
        return node

    def group(self) -> Node:
        return self.enclosed("{", "}")

    def number(self) -> Node:
        digits = self.take().text.replace(",", "")
        if not digits.strip("0123456789.") == "" or digits == "":
            raise Unreadable(f"{digits!r} is no number")
        value = Fraction(digits)
        if "." in digits and self.peek("overline", "bar"):
            value += self.period(len(digits.partition(".")[2]))
        return Node("number", value=value, name="." if "." in digits else "")

    def period(self, places: int) -> Fraction:
        r"""What 0.1\overline{36} has beyond its first `places` decimals."""
        self.take()
        self.expect("{")
        digits = self.take()
        self.expect("}")
        if digits.kind != "number" or not digits.text.isdigit():
            raise Unreadable("a period is made of digits")
        return Fraction(int(digits.text), (10 ** len(digits.text) - 1) * 10**places)

    def subscripted(self, name: str) -> Node:
        if self.peek("_"):
            self.take()
            name += "_" + self.plain_argument()
        return Node("symbol", name=name)

    def plain_argument(self) -> str:
        """The text of a group or of one token."""
        if not self.peek("{"):
            return self.take().text
        self.take()
        start = self.at
        while not self.peek("}"):
            self.take()
        self.at += 1
        return "".join(token.text for token in self.tokens[start : self.at - 1])

    def argument(self) -> Node:
        r"""What a command takes: a group, or one digit, letter or command: \frac12 is one half."""
        if self.peek("{"):
            return self.group()
        if self.kind() == "number" and len(self.tokens[self.at].text) > 1:
            token = self.tokens[self.at]
            self.tokens[self.at : self.at + 1] = [Token("number", digit) for digit in token.text if digit.isdigit()]
        return self.atom()

    def command(self, name: str) -> Node:
        if name in ("frac", "dfrac", "tfrac", "cfrac"):
            return Node("/", (self.argument(), self.argument()))
        if name == "sqrt":
            return self.root()
        if name in ("binom", "dbinom", "tbinom"):
            return Node("binom", (self.argument(), self.argument()))
        if name in FUNCTIONS:
            return self.function(name)
        if name in ("lvert", "vert", "|"):
            node = self.sum()
            self.expect({"lvert": "rvert"}.get(name, name))
            return Node("abs", (node,))
        if name in ("pi", "infty"):
            return Node("symbol", name=name)
        if name in _GREEK:
            return self.subscripted(name)
        if name in _DECORATIONS:
            return self.subscripted(self.plain_argument())
        if name in _PREFIXES:
            return self.atom()
        raise Unreadable(f"\\{name} is not known")

    def root(self) -> Node:
        index = Node("number", value=Fraction(2))
        if self.peek("["):
            index = self.enclosed("[", "]")
        return Node("root", (self.argument() if not self.peek("(") else self.atom(), index))

    def function(self, name: str) -> Node:
        base = exponent = None
        while self.peek("_", "^"):
            if self.take().text == "_":
                base = self.argument()
            else:
                exponent = self.exponent()
        node = self.atom() if self.peek("(", "{", "|", "[") else self.bare_argument()
        node = Node("function", (node,) if base is None else (node, base), name)
        return node if exponent is None else Node("^", (node, exponent))

    def bare_argument(self) -> Node:
        r"""The factors after a function without brackets: \sin 2x is the sine of 2x, \sin x \cos x is not."""
        node = self.power()
        while self.kind() in ("number", "symbol") or self.peek("pi", *_GREEK):
            node = Node("*", (node, self.power()))
        return node


def is_natural(node: Node) -> bool:
    """Whether `node` is digits and nothing else."""
    return node.op == "number" and not node.name


def is_numeral(node: Node) -> bool:
    """Whether `node` is a number that is written as one, with no arithmetic left: 5, -1.5, 3/4, 1 1/2, 2 * 10^5."""
    if node.op == "neg":
        return node.args[0].op != "neg" and is_numeral(node.args[0])
    if node.op == "/":
        over, under = node.args
        return is_natural(over.args[0] if over.op == "neg" else over) and is_natural(under)
    if node.op == "*":
        number, power = node.args
        ten = power.op == "^" and power.args[0] == Node("number", value=Fraction(10))
        return (
            number.op == "number" and ten and is_natural(power.args[1].args[0] if power.args[1].args else power.args[1])
        )
    return node.op in ("number", "mixed")
