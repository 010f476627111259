"""What ``manage.py`` gains."""
