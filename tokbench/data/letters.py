"""The choices behind `glyphs`, which its loader, its judge and its tables share."""

ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"  # without 0, O, 1 and I, which look alike
FONT_SIZES = (6, 8, 10, 12, 14, 16)  # pixels of an em; capitals are 0.73 of it
BACKGROUNDS = ("plain", "noise", "photo")
