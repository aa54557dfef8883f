"""What a step can do without: the padding behind captions, activations until they are needed again."""
