"""Pages that need no network: charts as inline SVG, sortable tables, style sheet and script.

`markup` builds escaped elements; `scales` places numbers; `bars`, `lines` and `matrices` draw
charts of one width; `figures` puts them beside title, caption and legend; `tables` makes tables;
`page` has the template environment with the style sheet, the script and the policy that lets a
browser run and load nothing else. Charts are complete without the script, which adds hover texts,
legends that hide and show, sorting and filters.
"""
