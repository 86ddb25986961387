"""Episodes from and to the forms that others write."""
