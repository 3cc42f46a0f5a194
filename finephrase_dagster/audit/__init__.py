"""Gates over synthetic text: what must hold before a mixture may use a dataset."""
