import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sightline.ops.logprobs import log_collision, plain_logprobs, selected_logprobs

N, D, V = 23, 16, 50
MODES = [pytest.param(0, id="recompute"), pytest.param(2**30, id="keep")]


def problem(dtype=torch.float32, size=N):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(size, D, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(V, D, generator=generator).mul(0.4).to(dtype).requires_grad_()
    bias = torch.randn(V, generator=generator).to(dtype).requires_grad_()
    return hidden, weight, bias, torch.randint(V, (size,), generator=generator), torch.randn(size, generator=generator)


def gradients(function, hidden, weight, bias, target, upstream, **options):
    inputs = [x.detach().clone().requires_grad_() for x in (hidden, weight, bias)]
    logprobs, _ = function(*inputs, target, **options)
    return (logprobs, *torch.autograd.grad((logprobs * upstream.to(logprobs.dtype)).sum(), inputs))


def test_log_probability_of_two_known_logits():
    # Logits (0, ln 3): probabilities 1/4 and 3/4; entropy 2 ln 2 - 3/4 ln 3.
    hidden, weight = torch.tensor([[1.0], [1.0]]), torch.tensor([[0.0], [math.log(3)]])
    logprobs, entropy = selected_logprobs(hidden, weight, None, torch.tensor([0, 1]), entropy=True)
    assert logprobs.tolist() == pytest.approx([math.log(0.25), math.log(0.75)], abs=1e-6)
    assert entropy.tolist() == pytest.approx([2 * math.log(2) - 0.75 * math.log(3)] * 2, abs=1e-6)


def test_gradient_of_a_known_softmax():
    # d log p_0 / d logits = (1 - 1/4, -3/4); times the weights (0, ln 3) for hidden, times hidden for the weights.
    hidden = torch.tensor([[1.0]], requires_grad=True)
    weight = torch.tensor([[0.0], [math.log(3)]], requires_grad=True)
    selected_logprobs(hidden, weight, None, torch.tensor([0]))[0].sum().backward()
    assert hidden.grad.item() == pytest.approx(-0.75 * math.log(3), abs=1e-6)
    assert weight.grad[:, 0].tolist() == pytest.approx([0.75, -0.75], abs=1e-6)


@pytest.mark.parametrize("save_logits_below", MODES)
@pytest.mark.parametrize("chunk", [1, 7, N, 100])
def test_values_and_gradients_equal_the_plain_computation(chunk, save_logits_below):
    inputs = problem()
    expected = gradients(plain_logprobs, *inputs)
    found = gradients(selected_logprobs, *inputs, chunk=chunk, save_logits_below=save_logits_below)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("chunk", [4, 100])
def test_entropy_equals_the_plain_one_and_carries_no_gradient(chunk):
    hidden, weight, bias, target, _ = problem()
    _, expected = plain_logprobs(hidden, weight, bias, target, entropy=True)
    _, found = selected_logprobs(hidden, weight, bias, target, entropy=True, chunk=chunk)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    assert not found.requires_grad


def test_entropy_does_not_disturb_the_gradient_when_exponentials_are_kept():
    hidden, weight, bias, target, upstream = problem()
    expected = gradients(plain_logprobs, hidden, weight, bias, target, upstream)
    found = gradients(selected_logprobs, hidden, weight, bias, target, upstream, entropy=True)
    torch.testing.assert_close(found[1], expected[1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("save_logits_below", MODES)
def test_gradcheck_in_float64(save_logits_below):
    hidden, weight, bias, target, _ = problem(torch.float64, size=5)

    def logprobs(*inputs):
        return selected_logprobs(*inputs, target, chunk=2, save_logits_below=save_logits_below)[0]

    assert torch.autograd.gradcheck(logprobs, (hidden, weight, bias))


@pytest.mark.parametrize("save_logits_below", MODES)
def test_backward_twice_over_one_graph_gives_the_same(save_logits_below):
    hidden, weight, bias, target, _ = problem()
    total = selected_logprobs(hidden, weight, bias, target, save_logits_below=save_logits_below)[0].sum()
    first = torch.autograd.grad(total, (hidden, weight), retain_graph=True)
    second = torch.autograd.grad(total, (hidden, weight))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("save_logits_below", MODES)
def test_bfloat16_stays_near_float32_and_returns_float32(save_logits_below):
    inputs = problem(torch.bfloat16)
    exact = gradients(plain_logprobs, *(x.float() for x in inputs[:3]), *inputs[3:])
    found = gradients(selected_logprobs, *inputs, chunk=4, save_logits_below=save_logits_below)
    assert found[0].dtype == torch.float32 and found[1].dtype == found[2].dtype == torch.bfloat16
    # bfloat16 has 8 bits: logits of size 8 are off by at most 2**-5.
    torch.testing.assert_close(found[0], exact[0], atol=0.04, rtol=0)
    for one, other in zip(found[1:], exact[1:], strict=True):
        assert (one.float() - other).norm() <= 0.01 * other.norm()


def test_autocast_gives_what_bfloat16_inputs_give():
    hidden, weight, bias, target, upstream = problem()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients(selected_logprobs, hidden, weight, bias, target, upstream)
        plain = gradients(plain_logprobs, hidden, weight, bias, target, upstream)
    assert found[0].dtype == torch.float32 and all(x.dtype == torch.float32 for x in found[1:])
    torch.testing.assert_close(found[0], plain[0], atol=1e-5, rtol=1e-5)
    for one, other in zip(found[1:], plain[1:], strict=True):
        assert (one - other).norm() <= 0.01 * other.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", [1, 7, N])
def test_a_frozen_head_gets_no_gradient_and_hidden_still_does(chunk, dtype):
    hidden, weight, bias, target, upstream = problem(dtype)
    expected = gradients(plain_logprobs, hidden.float(), weight.float(), bias.float(), target, upstream)[1]
    logprobs, entropy = selected_logprobs(
        hidden, weight.detach(), bias.detach(), target, chunk=chunk, entropy=chunk == 7
    )
    total = (logprobs * upstream).sum()
    (found,) = torch.autograd.grad(total, hidden, retain_graph=True)
    assert found.dtype == dtype and torch.equal(found, torch.autograd.grad(total, hidden)[0])
    assert (found.float() - expected).norm() <= (1e-6 if dtype == torch.float32 else 0.01) * expected.norm()
    assert entropy is None or not entropy.requires_grad


def test_a_head_alone_is_trained_on_frozen_hidden_states():
    hidden, weight, _, target, _ = problem()
    logprobs, _ = selected_logprobs(hidden.detach(), weight, None, target)
    expected, _ = plain_logprobs(hidden.detach(), weight, None, target)
    (found,) = torch.autograd.grad(logprobs.sum(), weight)
    torch.testing.assert_close(found, torch.autograd.grad(expected.sum(), weight)[0], atol=1e-6, rtol=1e-5)


def test_no_token_at_all_gives_an_empty_result_and_zero_gradients():
    hidden, weight, bias, target, _ = problem()
    logprobs, entropy = selected_logprobs(hidden[:0], weight, bias, target[:0], entropy=True)
    logprobs.sum().backward()
    assert logprobs.shape == entropy.shape == (0,)
    assert weight.grad.abs().sum() == 0


def saved(save_logits_below, trained=True):
    """Numbers kept for the backward pass beyond the inputs."""
    hidden, weight, bias, target, _ = problem()
    weight, bias = weight.requires_grad_(trained), bias.requires_grad_(trained)
    inputs, sizes = {x.data_ptr() for x in (hidden, weight, bias, target)}, []

    def note(tensor):
        sizes.append(0 if tensor.data_ptr() in inputs else tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        selected_logprobs(hidden, weight, bias, target, chunk=4, save_logits_below=save_logits_below)
    return sum(sizes)


def test_frugal_mode_saves_one_number_per_token():
    assert saved(0) == N
    assert saved(N * V * 4) == N + N * V  # the switch is inclusive, in bytes
    assert saved(N * V * 4 - 1) == N


def test_a_frozen_head_saves_no_logits():
    assert saved(2**30, trained=False) == N + N * D


class LargestTensor(TorchDispatchMode):
    """Notes the largest tensor that any operation, forward or backward, returns."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in torch.utils._pytree.tree_leaves(result):
            if torch.is_tensor(leaf):
                self.largest = max(self.largest, leaf.numel())
        return result


def test_frugal_mode_makes_no_tensor_larger_than_a_chunk_of_logits():
    hidden, weight, bias, target, _ = problem()
    with LargestTensor() as frugal:
        selected_logprobs(hidden, weight, bias, target, entropy=True, chunk=4, save_logits_below=0)[0].sum().backward()
    with LargestTensor() as plain:
        plain_logprobs(hidden, weight, bias, target)[0].sum().backward()
    assert frugal.largest == V * D > 4 * V  # the head itself
    assert plain.largest == N * V


def test_collision_is_the_logarithm_of_the_sum_of_squared_probabilities():
    hidden, weight, bias, _, _ = problem()
    with torch.no_grad():
        expected = torch.softmax(hidden @ weight.T + bias, -1).square().sum(-1).log()

    def head(states: torch.Tensor) -> torch.Tensor:
        return states @ weight.T + bias

    found = log_collision(head, hidden, chunk=5)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad and log_collision(head, hidden[:0]).shape == (0,)
