"""Injected damage as values, one factory a kind of damage: labels, corruptions, backdoors, updates,
evasion."""
