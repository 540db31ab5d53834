"""From records to numbers, without torch: reading, selection, tables, formats and the HTML page."""
