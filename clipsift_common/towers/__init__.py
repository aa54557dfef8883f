"""The towers of an open_clip model, called otherwise than open_clip does."""
