"""Losses of gradient attacks: formulas by hand, gradients where softmax has none, directions."""

import pytest
import torch

from attacks.evasion import evasion_logits
from attacks.losses import Loss

LOGITS = torch.tensor([[5.0, 1.0, 3.0, -1.0, 2.0]], dtype=torch.float64)
Y = torch.tensor([0])
WANTED = torch.tensor([3])


@pytest.mark.parametrize(
    ("loss", "wanted", "value"),
    [
        (Loss.MARGIN, None, -2.0),
        (Loss.MARGIN, WANTED, -6.0),
        (Loss.DLR, None, -2.0 / (5 - 2)),
        (Loss.DLR, WANTED, -6.0 / (5 - (2 + 1) / 2)),
        (Loss.TRUE_CLASS, None, -5.0),
    ],
)
def test_losses_of_five_logits_are_those_calculated_by_hand(loss, wanted, value):
    assert loss.of(LOGITS, Y, wanted).item() == pytest.approx(value)


@pytest.mark.parametrize("wanted", [None, WANTED])
def test_cross_entropy_grows_with_the_usual_one_and_along_the_same_direction(wanted):
    logits = LOGITS.clone().requires_grad_()
    ours = Loss.CROSS_ENTROPY.of(logits, Y, wanted)
    usual = torch.nn.functional.cross_entropy(logits, Y if wanted is None else wanted)
    if wanted is None:
        assert torch.nn.functional.softplus(ours).item() == pytest.approx(usual.item())
    else:
        assert torch.nn.functional.softplus(-ours).item() == pytest.approx(usual.item())
    (one,) = torch.autograd.grad(ours.sum(), logits)
    (two,) = torch.autograd.grad(usual if wanted is None else -usual, logits)
    assert torch.allclose(one / one.norm(), two / two.norm())


def test_cross_entropy_has_a_gradient_where_softmax_has_none():
    logits = (1e4 * LOGITS).float().requires_grad_()
    (usual,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, Y), logits)
    assert not usual.any(), "the fault that this form avoids is gone from float32"
    (gradient,) = torch.autograd.grad(Loss.CROSS_ENTROPY.of(logits, Y).sum(), logits)
    assert gradient.tolist() == [[-1.0, 0.0, 1.0, 0.0, 0.0]]


@pytest.mark.parametrize("classes", [2, 3])
def test_dlr_of_few_classes_divides_by_what_logits_there_are(classes):
    logits = LOGITS[:, :classes]
    spread = {2: 1.0, 3: 5.0 - 1.0}[classes]
    untargeted = {2: -4.0, 3: -2.0}[classes]
    assert Loss.DLR.of(logits, Y).item() == pytest.approx(untargeted / spread)
    assert Loss.DLR.of(logits, Y, torch.tensor([1])).item() == pytest.approx(-4.0 / spread)


def test_dlr_ignores_the_scale_of_logits():
    scaled = Loss.DLR.of(1e6 * LOGITS + 7, Y)
    assert scaled.item() == pytest.approx(Loss.DLR.of(LOGITS, Y).item())


def test_dlr_of_equal_logits_is_finite():
    logits = torch.zeros(1, 4, requires_grad=True)
    value = Loss.DLR.of(logits, Y)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert value.item() == 0 and gradient.isfinite().all()


@pytest.mark.parametrize("loss", [Loss.MARGIN, Loss.DLR])
@pytest.mark.parametrize("margin", [-1.0, 1.0])
def test_a_loss_is_positive_only_where_wrong_and_accepted(loss, margin):
    wrong = torch.tensor([[0.0, 3.0, 1.0, -1.0]])
    value = loss.of(evasion_logits(wrong, torch.tensor([margin]), Y), Y)
    assert (value > 0).item() == (margin < 0)


def test_the_true_class_loss_takes_no_wanted_class():
    with pytest.raises(ValueError, match="wanted must be None"):
        Loss.TRUE_CLASS.of(LOGITS, Y, WANTED)
