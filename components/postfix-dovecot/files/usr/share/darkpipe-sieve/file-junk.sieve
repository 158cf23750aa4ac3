# rspamd marks what is spam but not beyond doubt (add_header in actions.conf); marks that a message brings with it are removed.
require ["fileinto", "mailbox"];

if header :is "X-Spam" "Yes" {
  fileinto :create "Junk";
  # The user's own rules, which might forward it, do not see it.
  stop;
}
