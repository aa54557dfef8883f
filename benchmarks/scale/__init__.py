"""How each stage grows: time, memory and exponent over pools of several sizes."""
