"""Test mathml: TeX becomes equivalent MathML, and TeX that can't be converted raises an error."""

import pytest

from workshop.publishing.mathml import to_mathml

OPEN = '<math xmlns="http://www.w3.org/1998/Math/MathML" display="inline">'


def test_inline_and_displayed_formulas():
    product = "<mn>7</mn><mo>&#x000B7;</mo><msup><mn>10</mn><mn>9</mn></msup>"
    expected = f"{OPEN}<mrow>{product}<mo>&#x000D7;</mo><mn>4</mn></mrow></math>"
    assert to_mathml(r" 7 \cdot 10^9 \times 4 ") == expected
    fraction = "<mfrac><mrow><mi>&#x003B1;</mi></mrow><mrow><mi>r</mi></mrow></mfrac>"
    expected = f"{OPEN}<mrow>{fraction}</mrow></math>".replace("inline", "block")
    assert to_mathml(r"\frac{\alpha}{r}", display=True) == expected


@pytest.mark.parametrize(
    ("tex", "reason"),
    [
        ("", "NoAvailableTokensError"),
        (r"\left(", "NoAvailableTokensError"),
        ("a^b^c", "DoubleSuperscriptsError"),
        ("a & b", "ParseError"),
        (r"\foo", r"'\\foo' was not converted"),
        (r"\text{50\%}", r"'\\' was not converted"),
        ("x}", "'}' was not converted"),
        (r"\frac{a", "an argument is missing"),
        (r"\frac{a}", "an argument is missing"),
    ],
)
def test_a_formula_that_would_be_shown_incorrectly_raises_an_error(tex, reason):
    with pytest.raises(ValueError) as error:
        to_mathml(tex)
    assert str(error.value) == f"{tex!r} can't be shown as a formula: {reason}"
