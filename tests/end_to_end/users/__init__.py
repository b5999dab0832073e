"""Whole models as their users write them: trained, exported to both targets, and checked."""
