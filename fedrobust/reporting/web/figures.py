"""Figures: a chart with its title, legend and caption; sections of figures."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from fedrobust.reporting.web.markup import element


@dataclass(frozen=True, slots=True)
class Key:
    """An entry of a legend: the series that it hides and shows, the class that colours it, its
    name; dashed: as the line that it stands for."""

    key: str
    look: str
    name: str
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """title: what is shown, with its unit; caption: how to read it."""

    title: str
    chart: Markup
    caption: str = ""
    keys: tuple[Key, ...] = ()

    def __html__(self) -> str:
        """The whole as markup."""
        legend = [
            element(
                "li",
                {"class": f"{one.look}{' dashed' if one.dashed else ''}", "data-series": one.key},
                one.name,
            )
            for one in self.keys
        ]
        parts: list[Markup] = [element("h3", {}, self.title)]
        if legend:
            parts.append(element("ul", {"class": "legend"}, *legend))
        parts.append(self.chart)
        if self.caption:
            parts.append(element("figcaption", {}, self.caption))
        return element("figure", {}, *parts)


@dataclass(frozen=True, slots=True)
class FigureSection:
    """Figures under a heading. name: of its place in the page; small: further ones of less weight,
    three side by side; notes: sentences below the heading."""

    name: str
    title: str
    figures: tuple[Figure, ...]
    small: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()
