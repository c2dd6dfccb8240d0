"""mathml: formulas become elements that say what the TeX says; what would not, is refused."""

import pytest

from course_utils.publishing.mathml import to_mathml

OPEN = '<math xmlns="http://www.w3.org/1998/Math/MathML" display="inline">'


def test_a_formula_in_a_line():
    product = "<mn>7</mn><mo>&#x000B7;</mo><msup><mn>10</mn><mn>9</mn></msup>"
    expected = f"{OPEN}<mrow>{product}<mo>&#x000D7;</mo><mn>4</mn></mrow></math>"
    assert to_mathml(r" 7 \cdot 10^9 \times 4 ") == expected


def test_a_formula_on_its_own_line():
    fraction = "<mfrac><mrow><mi>&#x003B1;</mi></mrow><mrow><mi>r</mi></mrow></mfrac>"
    expected = f"{OPEN}<mrow>{fraction}</mrow></math>".replace("inline", "block")
    assert to_mathml(r"\frac{\alpha}{r}", display=True) == expected


@pytest.mark.parametrize(
    "tex",
    [
        r"W' = W + \tfrac{\alpha}{r} B A",
        r"\lVert \text{stored} - W' \rVert < \{1, 2\}",
        r"\alpha_{ij}^2 \sqrt{x} \backslash y",
        r"\begin{matrix}a & b\\ c & d\end{matrix}",
    ],
)
def test_what_the_course_may_write(tex):
    assert to_mathml(tex).startswith(OPEN)


@pytest.mark.parametrize(
    ("tex", "why"),
    [
        ("", "NoAvailableTokensError"),
        (r"\left(", "NoAvailableTokensError"),
        ("a^b^c", "DoubleSuperscriptsError"),
        ("a & b", "ParseError"),
        (r"\foo", r"'\\foo' is left over"),
        (r"\text{50\%}", r"'\\' is left over"),
        ("x}", "'}' is left over"),
        (r"\frac{a", "an argument is missing"),
        (r"\frac{a}", "an argument is missing"),
    ],
)
def test_what_would_be_shown_wrong_is_refused(tex, why):
    with pytest.raises(ValueError) as refused:
        to_mathml(tex)
    assert str(refused.value) == f"{tex!r} can't be shown as a formula: {why}"
