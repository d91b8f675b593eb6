"""Published numbers are written down twice, by norm and by paper: they are the same."""

import pytest

from normbench.norms import NORMS
from normbench.report.compare.published import BEFRANKE, MABN, WU_HE


def said(norm: str, measured: str) -> dict[str, float]:
    """What a norm's page says of it."""
    found = [each for each in NORMS[norm].published if each.measured.startswith(measured)]
    assert len(found) == 1, [each.measured for each in NORMS[norm].published]
    return dict(found[0].results)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_norm_s_page_and_the_reports_say_the_same(norm: str) -> None:
    errors = said(norm, "ResNet-50, ImageNet, error in %, by images per GPU")
    accuracies = said(norm, "ResNet-20, CIFAR-10, accuracy in %, by batch size")

    assert {int(x): error for x, error in errors.items()} == WU_HE.lines[norm]
    assert {int(x): 100 - accuracy for x, accuracy in accuracies.items()} == pytest.approx(
        BEFRANKE.lines[norm]
    )


def test_batch_renorm_s_page_says_what_the_reports_do() -> None:
    at_four = said("batch_renorm", "ResNet-50, ImageNet, error in %, 4 images per GPU")

    assert at_four == {norm: WU_HE.lines[norm][4] for norm in ("batch", "batch_renorm")}


def test_moving_batch_norm_s_page_says_what_the_reports_do() -> None:
    assert set(said("moving_batch", "ResNet-50, ImageNet").values()) <= {
        value for line in MABN.lines.values() for value in line.values()
    }
