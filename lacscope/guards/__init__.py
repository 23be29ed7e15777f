"""What every call stands on: arguments checked, private text withheld, text shown plain, changes undone. No torch."""
