"""What this instance does, in numbers, as Prometheus reads them. Named `parley_<part>_<noun>_<unit>`."""
