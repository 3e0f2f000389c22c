"""Adapters: the only room that knows diffusers and timm."""
