"""Describe the controls of an explorer: widgets in a notebook, a form on the website.

Control ──► a widget ──► a value ─────────────────────────────┬──► `used`: checked values
Control ──► a field of a form ──► a text ──► `values_of` ─────┘
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from course_utils.machine.validation import one_of

# Longer numbers are refused before Python reads them, because int() needs more than linear time.
MOST_DIGITS = 12


class Condition(NamedTuple):
    """The condition that another control has one of these values."""

    control: str
    values: tuple[Any, ...]


METHODS = {
    "full": "full fine-tuning",
    "lora": "LoRA on a 16-bit base",
    "qlora": "QLoRA on an NF4 base",
}
ADAPTERS, QLORA = Condition("method", ("lora", "qlora")), Condition("method", ("qlora",))


@dataclass(frozen=True)
class Control:
    """A menu, a checkbox, or a field for a number or a text.

    A control with options is a menu. Otherwise, the type of its initial value determines its kind.

    Attributes:
        value: The value at first.
        options: The values of a menu, each with the words that the menu shows.
        most: The largest allowed number, or the largest number of characters of a text.
        only_if: The condition under which this control is used; None if it is always used.
        more: Whether the control belongs to the settings that are folded at first.
    """

    label: str
    value: bool | int | str | None
    options: Mapping[Any, str] = field(default_factory=dict)
    least: int = 1
    most: int = 10**MOST_DIGITS - 1
    only_if: Condition | None = None
    help: str = ""
    more: bool = False

    @property
    def kind(self) -> str:
        """The kind of the control: "menu", "checkbox", "number" or "text"."""
        if self.options:
            return "menu"
        return {bool: "checkbox", int: "number", str: "text"}[type(self.value)]

    def is_used(self, values: Mapping[str, Any]) -> bool:
        """Return whether the control is used, given the values of the other controls."""
        return self.only_if is None or values[self.only_if.control] in self.only_if.values

    def read(self, text: str) -> Any:
        """Return the value that a text in a form or a link stands for: `write` the other way."""
        match self.kind:
            case "menu":
                values = {self.write(value): value for value in self.options}
                return values[one_of(self.label, text, values)]
            case "checkbox":
                return one_of(self.label, text, ("0", "1")) == "1"
            case "number":
                # int() would also accept "1_000" and the digits of other scripts.
                digits = text.strip().removeprefix("-")
                is_whole = digits.isascii() and digits.isdecimal() and len(digits) <= MOST_DIGITS
                return self.check(int(text) if is_whole else text)
        if len(text) > self.most:
            raise ValueError(
                f"{self.label}: the text has {len(text):,} characters, but at most {self.most:,} "
                "are read."
            )
        return text

    def check(self, value: Any) -> Any:
        """Return a value, after checking that a number is whole and in its range."""
        if self.kind == "number" and not (
            isinstance(value, int) and self.least <= value <= self.most
        ):
            if isinstance(value, int):
                shown = f"{value:,}"
            else:
                shown = repr(value[:MOST_DIGITS]) if value.strip() else "empty"
            raise ValueError(
                f"{self.label} must be a whole number from {self.least:,} to {self.most:,}, "
                f"but is {shown}."
            )
        return value

    def write(self, value: Any) -> str:
        """Return the text that stands for a value."""
        return str(int(value) if isinstance(value, bool) else value)


def same(values: Iterable[Any]) -> dict[Any, str]:
    """Return the options of a menu that shows the values themselves."""
    return {value: f"{value:,}" if isinstance(value, int) else value for value in values}


def values_of(controls: Mapping[str, Control], texts: Mapping[str, str]) -> dict[str, Any]:
    """Return the value of each control, read from the texts of a form or a link.

    If there is no text for a control, or if the control is not used, it has its initial value.
    Texts of unknown names are ignored.
    """
    values: dict[str, Any] = {}
    for name, control in controls.items():
        # The control that `only_if` names comes earlier in `controls`, so its value is known.
        is_entered = name in texts and control.is_used(values)
        values[name] = control.read(texts[name]) if is_entered else control.value
    return values


def used(controls: Mapping[str, Control], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the controls that are used, after checking them."""
    return {
        name: control.check(values[name])
        for name, control in controls.items()
        if control.is_used(values)
    }
