"""Pairs of images, one with a finding and one without: one pair, two folders, or images whose lesions are filled in."""
