"""An SFTP server of this machine for the tests."""
