# darkpipe-tunnel starts OpenVPN itself, with settings that are in no file, and it runs no script or plugin.
rm -rf /etc/openvpn /etc/default/openvpn /etc/init.d/openvpn /etc/rc?.d/???openvpn /etc/network/if-*.d/openvpn /usr/include/openvpn \
	/usr/lib/openvpn /usr/lib/*-linux-gnu/openvpn /usr/lib/tmpfiles.d/openvpn.conf /etc/systemd/system/*.wants/openvpn.service \
	/usr/lib/systemd/system-generators/openvpn-generator /usr/lib/systemd/system/openvpn.service \
	/usr/lib/systemd/system/openvpn*@.service
