"""Where the controller begins a conversation itself: webhooks and syslog. Sending alone; what is sent, and when, others decide."""
