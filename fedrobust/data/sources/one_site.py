"""The images of one site only, from the source that its node's configuration names."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from fedrobust.data.dataset import Dataset, DataSource, Origins, make_dataset
from fedrobust.errors import DataError, found_in
from fedrobust.utils.names import clean_name
from fedrobust.utils.validation import Built, check_settings


@check_settings("data")
def one_site(
    source: Annotated[DataSource, Built("a group with a _target_; see configs/data")],
    site: str | int | None = None,
) -> DataSource:
    """One site's images; classes may be missing.

    Args:
        source: the data set of which the site is a part.
        site: its name among the sites of the source; needed where those are several.

    Returns:
        The source; nothing is read before its `load`.

    Raises:
        ConfigError: a setting is out of its range.
    """
    return DataSource(source.name, lambda: _load(source, site), source.places)


def _load(source: DataSource, site: str | int | None) -> Dataset:
    dataset = source.load()
    if dataset.site_problem and site is not None:
        raise DataError(
            f"{source.name}: site {site} cannot be told from others: {dataset.site_problem}"
        )
    if len(dataset.site_names) == 1 or site is None:
        return dataset
    wanted = clean_name(str(site))
    if wanted not in dataset.site_names:
        raise DataError(
            f"{source.name}: there is no site {wanted}; there are {', '.join(dataset.site_names)}"
        )
    rows = (dataset.sites == dataset.site_names.index(wanted)).nonzero().reshape(-1)
    with found_in(f"{source.name}, site {wanted}"):
        own = make_dataset(
            dataset.name,
            dataset.images[rows],
            dataset.labels[rows],
            dataset.class_names,
            Origins(dataset.splits[rows], site_names=(wanted,), groups=dataset.groups[rows]),
            skipped=dataset.skipped,
            every_class=False,
        )
    return replace(own, notes=dataset.notes)
