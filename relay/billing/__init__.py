"""What calls cost, what is held for them, and what a recharge is worth: pure integers."""
