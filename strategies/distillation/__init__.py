"""Distillation on the server's proxy images: members' scores, teachers, students."""
