"""Describe the controls of a tool, which the website shows as a form.

Control ──► a field of the form ──► text in the link ──► `values_of` ──► a checked value
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from course_utils.validation import one_of

# Longer numbers are refused before Python reads them, because int() needs more than linear time.
MOST_DIGITS = 12


@dataclass(frozen=True)
class Control:
    """A control of a tool: a menu, a checkbox, or a field for a number or a text.

    A control with options is a menu. Otherwise, the type of its initial value determines its kind:
    a bool makes a checkbox, an int a field for a whole number, and a string a field for text.

    Attributes:
        label: The words next to the control.
        value: The value at first.
        options: The values of a menu, each with the words that the menu shows.
        least: The smallest allowed number.
        most: The largest allowed number, or the largest number of characters of a text.
        only_if: The name of another control, and its values for which this control is shown and
            used. Empty if this control is always used.
        help: A sentence that explains the control; "" if the label is enough.
        more: Whether the control belongs to the settings that are folded at first.
    """

    label: str
    value: bool | int | str | None
    options: Mapping[Any, str] = field(default_factory=dict)
    least: int = 1
    most: int = 10**MOST_DIGITS - 1
    only_if: tuple[str, tuple[Any, ...]] | tuple[()] = ()
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
        return not self.only_if or values[self.only_if[0]] in self.only_if[1]

    def read(self, text: str) -> Any:
        """Return the value of the control, converted from its text in a form or a link.

        Args:
            text: "1" or "0" for a checkbox, else the value as `str` writes it.

        Raises:
            ValueError: The text stands for no allowed value.
        """
        match self.kind:
            case "menu":
                values = {str(value): value for value in self.options}
                return values[one_of(self.label, text, values)]
            case "checkbox":
                return one_of(self.label, text, ("0", "1")) == "1"
            case "number":
                return self._number(text.strip())
        if len(text) > self.most:
            raise ValueError(
                f"{self.label}: the text has {len(text):,} characters, but at most {self.most:,} "
                "are read."
            )
        return text

    def _number(self, text: str) -> int:
        # int() would also accept "1_000" and the digits of other scripts.
        digits = text.removeprefix("-")
        whole = digits.isascii() and digits.isdecimal() and len(digits) <= MOST_DIGITS
        if not whole or not self.least <= int(text) <= self.most:
            raise ValueError(
                f"{self.label}: please enter a whole number from {self.least:,} to {self.most:,}."
            )
        return int(text)

    def write(self, value: Any) -> str:
        """Return the text that stands for a value."""
        return str(int(value) if self.kind == "checkbox" else value)


def values_of(controls: Mapping[str, Control], texts: Mapping[str, str]) -> dict[str, Any]:
    """Return the value of each control, read from the texts of a form or a link.

    If there is no text for a control, or if the control is hidden, it has its initial value. Texts
    of unknown names are ignored.

    Raises:
        ValueError: The text of a used control stands for no allowed value.
    """
    values: dict[str, Any] = {}
    for name, control in controls.items():
        # The control that `only_if` names comes earlier in `controls`, so its value is known.
        is_entered = name in texts and control.is_used(values)
        values[name] = control.read(texts[name]) if is_entered else control.value
    return values
