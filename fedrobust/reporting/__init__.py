"""Reporting of a run: report, records, manifest, text, screen, figures, page."""
