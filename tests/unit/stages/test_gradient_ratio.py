"""The adversarial weight by gradient ratio: its formula on known norms, its limit, and its state."""

from __future__ import annotations

import json
import math
import statistics

import pytest

from fluxduel.training.stages.gradient_ratio import GradientRatio


def fed(norms, ratio=0.3, first=0.5) -> GradientRatio:
    balance = GradientRatio(ratio, first)
    for flow, adversarial in norms:
        balance.update(flow, adversarial)
    return balance


def test_the_first_weight_is_the_given_one():
    assert GradientRatio(0.3, 0.5).weight == 0.5


def test_the_weighted_gradient_is_the_ratio_of_the_flow_losss():
    """At steady norms: weight x adversarial = ratio x flow."""
    for count in (1, 2, 50):
        balance = fed([(2.0, 8.0)] * count, ratio=0.3)
        assert balance.weight * 8.0 == pytest.approx(0.3 * 2.0)


def test_the_first_ten_updates_count_the_same():
    flows, adversarials = [1.0, 5.0, 2.0, 8.0, 3.0], [2.0, 1.0, 4.0, 3.0, 7.0]
    balance = fed(zip(flows, adversarials, strict=True), ratio=1.0)
    assert balance.weight == pytest.approx(statistics.mean(flows) / statistics.mean(adversarials))


def test_later_a_tenth_of_the_average_is_new():
    balance = fed([(1.0, 1.0)] * 10 + [(11.0, 1.0)], ratio=1.0)
    assert balance.weight == pytest.approx(0.9 * 1.0 + 0.1 * 11.0)
    for _ in range(200):
        balance.update(3.0, 2.0)
    assert balance.weight == pytest.approx(1.5)


def test_the_weight_stays_within_ten_times_its_first_value():
    balance = fed([(1.0, 2.0)] + [(1.0, 1e-9)] * 200, ratio=1.0)
    assert balance.weight == pytest.approx(10 * 0.5)
    for _ in range(300):
        balance.update(1.0, 0.5)
    assert balance.weight == pytest.approx(2.0), "the limit is no memory"


def test_a_discriminator_without_a_gradient_keeps_the_first_weight():
    balance = fed([(1.0, 0.0)], first=0.25)
    assert balance.weight == 0.25
    balance = fed([(1.0, 0.0)] + [(1.0, 1e-12)] * 5, first=0.25)
    assert balance.weight == pytest.approx(2.5), "without a measured first value the given one sets the limit"


@pytest.mark.parametrize("bad", [(math.nan, 1.0), (1.0, math.inf), (math.inf, math.nan)])
def test_norms_that_are_not_finite_are_left_out(bad):
    norms = [(1.0, 2.0), (3.0, 4.0), (0.5, 9.0)]
    assert fed([bad, norms[0], bad, *norms[1:], bad]).weight == fed(norms).weight


def test_state_is_json_and_all_there_is():
    norms = [(1.0 + 0.1 * n, 2.0 / (n + 1)) for n in range(15)]
    whole, first = fed(norms), fed(norms[:7])
    second = GradientRatio(0.3, 0.5)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.weight == first.weight
    for flow, adversarial in norms[7:]:
        second.update(flow, adversarial)
    assert second.weight == whole.weight
    for _ in range(300):
        whole.update(1.0, 1e-9)
        second.update(1.0, 1e-9)
    assert second.weight == whole.weight == pytest.approx(10 * 0.3 * 1.0 / 2.0)
