"""What a run leaves behind and shows: report, records, manifest, text, screen, figures, page."""
