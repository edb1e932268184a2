"""Figures of PPP, SRM, training curves and statistical evidence."""
