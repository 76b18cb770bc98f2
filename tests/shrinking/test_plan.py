"""Plans: what is known forward, what is needed backward."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.shrinking.listing import listed
from lap_jax.shrinking.plan import Plan, planned
from tests.shrinking.held import ALL, normal


def plan_of(
    model: Any, params: list[jax.Array], x: jax.Array, fixed: Any = None, wanted: Any = None
) -> Plan:
    program = jax.make_jaxpr(model)(params, x)
    return planned(listed(program, len(params), True), params, fixed, wanted or {})


def model(p: Any, x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ p[0] + p[1]) @ p[2]


PARAMS = [normal(4, 3, zero=((ALL, 0),)), normal(3), normal(3, 2, zero=(2,))]
X = normal(5, 4)


def test_a_neuron_is_kept_if_it_varies_and_is_read() -> None:
    plan = plan_of(model, PARAMS, X)
    first = plan.listing.steps[0]
    assert first.name == "dot_general"
    kept = plan.kept(first.outs[0])
    assert kept is not None
    np.testing.assert_array_equal(kept[1], [False, True, False])
    for number, leaf in plan.listing.leaves.items():
        needs = plan.needs[number]
        assert needs is not None
        np.testing.assert_array_equal(needs[-1 if leaf.number < 2 else 0], [False, True, False])


def test_of_a_network_in_training_only_what_is_pruned_is_known() -> None:
    """A neuron without incoming weights still learns its bias; one that nobody reads has none."""
    fixed = [PARAMS[0] == 0, jnp.zeros(3, bool), PARAMS[2] == 0]
    plan = plan_of(model, PARAMS, X, list(map(np.asarray, fixed)))
    needs = {leaf.number: plan.needs[number] for number, leaf in plan.listing.leaves.items()}
    assert all(each is not None for each in needs.values())
    np.testing.assert_array_equal(needs[0][1], [False, True, False])  # type: ignore[index]
    np.testing.assert_array_equal(needs[1][0], [True, True, False])  # type: ignore[index]
    np.testing.assert_array_equal(needs[2][0], [True, True, False])  # type: ignore[index]


def test_of_outputs_only_what_is_wanted() -> None:
    plan = plan_of(model, PARAMS, X, None, {0: None})
    assert all(wants is None for wants in plan.wants)
    one = (np.ones(5, bool), np.array([False, True]))
    plan = plan_of(model, PARAMS, X, None, {0: one})
    needs = {leaf.number: plan.needs[number] for number, leaf in plan.listing.leaves.items()}
    np.testing.assert_array_equal(needs[2][1], [False, True])  # type: ignore[index]


def test_made_parameters_are_known_entry_by_entry() -> None:
    def standardised(p: Any, x: jax.Array) -> jax.Array:
        kernel = jnp.where(jnp.abs(p[0]) > 0.5, p[0], 0)
        return x @ jnp.pad(kernel, ((0, 0), (0, 1)))[:, ::-1]

    plan = plan_of(standardised, PARAMS[:1], X)
    out = plan.facts[plan.listing.outputs[0]]
    expected = jnp.pad(jnp.where(jnp.abs(PARAMS[0]) > 0.5, PARAMS[0], 0), ((0, 0), (0, 1)))
    np.testing.assert_array_equal(out.zero(1), ~np.asarray(expected[:, ::-1]).any(0))
