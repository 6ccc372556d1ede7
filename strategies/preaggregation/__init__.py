"""Pre-aggregations: linear maps of the updates that make a rule's task easier, one factory a file,
one yaml each in configs/preaggregation. A `composition.Preaggregation` decides from the updates'
inner products alone."""

from fedrobust.aggregation.composition import Preaggregation


def none() -> Preaggregation:
    """The rule sees the updates as they are."""
    return Preaggregation("none", None)
