"""Methods that choose a set rather than score samples one by one."""
