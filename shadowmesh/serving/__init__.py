"""What every role that listens needs: descriptors, admission of connections, bounded logs, tasks that go on."""
