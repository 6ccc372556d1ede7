"""Pre-aggregations: linear maps of the updates that make a rule's task easier, one factory a file,
one yaml each in configs/preaggregation. A `composition.Preaggregation` decides from the updates'
inner products, or with `mix_round` from the whole round."""

from fedrobust.aggregation.composition import Preaggregation


def none() -> Preaggregation:
    """No pre-aggregation: the rule sees the updates unchanged."""
    return Preaggregation("none", None)
