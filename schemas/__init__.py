"""What flows through geoshards: keys, Arrow schemas, token layout, sample layout, config models.

This room reads like a glossary. It opens no file, and imports neither torch, ray nor another room.
"""
