"""The public class, and what opens, saves and applies it."""
