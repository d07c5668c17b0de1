"""Tag embedding tables: each tag of a dataset's vocabulary encoded once, read by the trainers as mapped memory."""
