"""What people read: terminal tables and pages, all made from records."""
