import pytest
import torch

from sightline.ops.kl import kl_estimate


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("k1", [0.5, -1.0, 0.0]), ("k2", [0.125, 0.5, 0.0]), ("k3", [0.1065307, 0.7182818, 0.0])],  # exp(-d) - 1 + d
)
def test_values(kind, expected):
    torch.testing.assert_close(kl_estimate(torch.tensor([0.5, -1.0, 0.0]), kind), torch.tensor(expected))


def test_k1_and_k3_are_without_bias_and_k2_has_the_gradient_of_the_divergence():
    """Expectations over all three outcomes of a distribution, against the divergence itself."""
    logits = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64, requires_grad=True)
    reference = torch.log_softmax(torch.tensor([0.1, 0.4, -0.3], dtype=torch.float64), 0)
    log = torch.log_softmax(logits, 0)
    divergence = (log.exp() * (log - reference)).sum()
    (slope,) = torch.autograd.grad(divergence, logits, retain_graph=True)
    for kind in ("k1", "k3"):
        expected = (log.exp() * kl_estimate(log - reference, kind)).sum()
        torch.testing.assert_close(expected, divergence)
    # a sampled gradient: outcomes are drawn by weights that have no gradient
    (own,) = torch.autograd.grad(
        (log.exp().detach() * kl_estimate(log - reference, "k2")).sum(), logits, retain_graph=True
    )
    torch.testing.assert_close(own, slope)
    (none,) = torch.autograd.grad((log.exp().detach() * kl_estimate(log - reference, "k1")).sum(), logits)
    torch.testing.assert_close(none, torch.zeros_like(none))
