"""The images of one site only, out of whatever its node's configuration names."""

from __future__ import annotations

from fedrobust.data.dataset import Dataset, DataSource, make_dataset
from fedrobust.errors import ConfigError, DataError, found_in


def one_site(source: DataSource, site: str | None = None) -> DataSource:
    """One site's images. site: its name among the sites of the source, needed where those are
    several; classes may be missing."""
    if not isinstance(source, DataSource):
        raise ConfigError(
            f"data.source={source}: must be a group with a _target_; see configs/data"
        )
    return DataSource(source.name, lambda: _load(source, site))


def _load(source: DataSource, site: str | None) -> Dataset:
    dataset = source.load()
    if len(dataset.site_names) == 1 or site is None:
        return dataset
    if site not in dataset.site_names:
        raise DataError(
            f"{source.name}: there is no site {site}; there are {', '.join(dataset.site_names)}"
        )
    rows = (dataset.sites == dataset.site_names.index(site)).nonzero().reshape(-1)
    with found_in(f"{source.name}, site {site}"):
        return make_dataset(
            dataset.name,
            dataset.images[rows],
            dataset.labels[rows],
            dataset.class_names,
            splits=dataset.splits[rows],
            site_names=(site,),
            groups=dataset.groups[rows],
            skipped=dataset.skipped,
            every_class=False,
        )
