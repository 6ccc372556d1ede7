"""Contribution of each hospital: leave-one-out and Shapley values of performance and of the drop,
from trainings of coalitions of hospitals."""
