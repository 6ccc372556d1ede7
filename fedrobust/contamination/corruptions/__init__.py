"""Corrupted images: noise, blur, colour, digital and clinical artefacts."""
